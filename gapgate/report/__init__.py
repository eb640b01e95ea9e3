"""Reports for people: figures and pages of HTML."""
