"""The client's side of a pool: one loop thread that provisions, dispatches, repairs and tears down."""
