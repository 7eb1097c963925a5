"""Gradwire's HTTP service: sessions in a store, runs on worker threads, errors as problems."""
