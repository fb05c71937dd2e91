"""The Quorra server. Nobody imports it: talk to it over REST, gRPC or SQL."""
