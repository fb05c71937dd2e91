"""The gRPC door: workers and producers in any language."""
