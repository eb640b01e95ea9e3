"""The HTTP application: routes, requests, forms and answers."""
