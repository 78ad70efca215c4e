"""Benchmarks. corank comes first, whatever a benchmark imports, so that no library reports to its maker."""

import corank as corank
