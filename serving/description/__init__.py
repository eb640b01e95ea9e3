"""The description of the routes: OpenAPI document, schemas, and the page that shows them."""
