"""Running relationships: the catalog that remembers them."""
