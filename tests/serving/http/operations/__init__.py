"""Tests of what whoever runs a service sees and bounds."""
