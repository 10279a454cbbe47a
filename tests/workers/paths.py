"""The ways from one task to the next call, and how many calls each of them leads to (see `tasks_attribution`)."""

PATHS = {
    "call": 1,
    "child": 2,
    "chained": 4,
    "grouped": 4,
    "chorded": 4,
    "linked": 3,
    "mapped": 4,
    "errbacks": 3,
    "retried": 3,
    "replaced": 2,
    "in_thread": 2,
    "in_pool": 5,
    "in_to_thread": 2,
    "gathered": 4,
    "child_from_thread": 2,
}
KILLS = {"errbacks_after_time_limit": 5, "errbacks_after_loss": 3, "chord_errback_after_loss": 2, "lost_and_retried": 2}
"""Paths on which a child is killed. After a hard time limit Celery 5.7 runs every errback twice, by itself too."""

NOT_ON = {("gathered", "gevent")}
"""asyncio allows one running loop in a thread, and gevent runs all tasks in one."""
