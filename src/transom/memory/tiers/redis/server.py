"""A server that may not answer, or may refuse."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeAlias, TypeVar

from transom.errors import InputError, MissingExtraError
from transom.memory.tiers.breaker import Breaker

__all__ = ["Client", "Server"]

Client: TypeAlias = Any  # redis.Redis or redis.RedisCluster; redis is an extra
AnswerT = TypeVar("AnswerT")

WAIT = 0.5  # seconds until a server that does not answer counts as gone

logger = logging.getLogger("transom.memory.redis")


class Server:
    """Asks a server, and answers for it when it does not.

    A server that does not answer is left alone for a while. One that refuses, because it is full or
    read-only, did answer, so the next question is asked as usual.

    Attributes:
        client: the client of redis-py.
        breaker: decides when the server is asked.
        refusals: how often it refused.

    Raises:
        MissingExtraError: without `transom[redis]`.
        InputError: on an address or a client that cannot be used.
    """

    def __init__(self, url: str, client: Client) -> None:
        try:
            import redis
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "RedisTier needs redis, which is not installed; run: pip install 'transom[redis]'."
            ) from error
        self.breaker = Breaker()
        self.refusals = 0
        self._refused = redis.exceptions.ResponseError
        self._failed = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException)
        if client is not None:
            self.client = _of_bytes(redis, client)
            return
        try:
            self.client = redis.Redis.from_url(
                url, socket_timeout=WAIT, socket_connect_timeout=WAIT, health_check_interval=30
            )
            pool = self.client.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # checks what the url says
        except (ValueError, TypeError, AttributeError, redis.exceptions.RedisError) as error:
            raise InputError(
                f"RedisTier: url is {url!r} ({error}); expected one such as "
                "'redis://127.0.0.1:6379/0', 'rediss://host:port' or 'unix:///path'."
            ) from error
        self.client = _of_bytes(redis, self.client)

    def ask(self, question: Callable[[], AnswerT], otherwise: AnswerT) -> AnswerT:
        """The answer of the server; `otherwise` when it refuses or does not answer."""
        if not self.breaker.allows():
            return otherwise
        try:
            answer = question()
        except self._refused as error:
            if not self.refusals:
                logger.warning("the Redis server refuses: %s; later refusals are counted", error)
            self.refusals += 1
            answer = otherwise
        except self._failed as error:
            was_open = self.breaker.open
            self.breaker.failed()
            if self.breaker.open and not was_open:
                logger.warning("the Redis server does not answer: %s; everything is a miss", error)
            return otherwise
        if self.breaker.open:
            logger.warning("the Redis server answers again")
        self.breaker.succeeded()
        return answer


def _of_bytes(redis: ModuleType, client: Client) -> Client:
    """`client`, or one for the same server that returns bytes and not text."""
    known = isinstance(client, (redis.Redis, redis.RedisCluster))
    if not known or isinstance(client, redis.client.Pipeline):
        raise InputError(
            f"RedisTier: client is a {type(client).__module__}.{type(client).__name__}; expected a "
            "redis.Redis or redis.RedisCluster (which Valkey understands too)."
        )
    if not client.get_encoder().decode_responses:
        return client
    pool: Any = getattr(client, "connection_pool", None)
    if type(pool) not in (redis.ConnectionPool, redis.BlockingConnectionPool):
        raise InputError(
            "RedisTier: client was made with decode_responses=True, and payloads are no text; "
            "expected one made without it."
        )
    settings = pool.connection_kwargs | {"decode_responses": False}
    own = redis.ConnectionPool(connection_class=pool.connection_class, **settings)
    return redis.Redis(connection_pool=own)
