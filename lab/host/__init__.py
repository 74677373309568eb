"""The part of the lab that runs on the host: building, caching and running."""
