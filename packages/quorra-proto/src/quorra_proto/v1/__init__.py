"""Version 1 of the protocol (`package quorra.v1`): `quorra_pb2` and `quorra_pb2_grpc`."""
