"""The wire protocol of Quorra: generated messages and services, typed. Import `quorra_proto.v1`."""
