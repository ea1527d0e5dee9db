"""What the relay withstands: bad input, stuck peers, idle peers, and attacks."""
