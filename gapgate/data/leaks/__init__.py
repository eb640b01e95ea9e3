"""Images that belong together: groups, near-duplicates, and what keeps them in one split."""
