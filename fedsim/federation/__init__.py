"""The federation: real Flower clients and server, with an adversary listening at the server's ear."""
