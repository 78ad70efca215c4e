"""Folders in object storage: URLs, requests, publication by a manifest, and a local cache of bounded size."""
