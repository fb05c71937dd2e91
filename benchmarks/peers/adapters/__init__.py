"""One small program for each contestant. It runs where that one is installed, and imports only from this folder."""
