"""HTTP: the wire formats that clients know, admission, accounts and the store."""
