"""A client's round as one value, which the honest client plays and an attacker replays."""
