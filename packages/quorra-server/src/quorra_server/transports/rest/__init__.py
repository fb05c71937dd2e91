"""The REST door: JSON over HTTP, problem details for every error, OpenAPI from the code."""
