"""What tests share: real services, real processes, and ways to disturb them."""
