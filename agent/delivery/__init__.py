"""Getting items to destinations: retry and drop accounting, once for all of them."""
