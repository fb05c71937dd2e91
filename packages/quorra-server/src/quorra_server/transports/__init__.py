"""The doors: REST, gRPC and the dashboard. They translate and decide nothing."""
