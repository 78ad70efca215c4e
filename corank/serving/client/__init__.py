"""Calls a service of corank from Python: `ServiceClient`, and `AsyncServiceClient` for asyncio."""

from corank.serving.client.answers import RankAnswer, RankedItem
from corank.serving.client.async_client import AsyncServiceClient
from corank.serving.client.retries import RetryPolicy
from corank.serving.client.service_client import ServiceClient

__all__ = ["AsyncServiceClient", "RankAnswer", "RankedItem", "RetryPolicy", "ServiceClient"]
