"""What `bin/demo` runs beside the product: servers, a shop whose rows change, and a receiver."""
