"""Celery's configuration, computed from the settings so that submitter, worker and Flower agree."""

from typing import Any

from bgpipe.config.settings import Settings


def celery_config(settings: Settings, broker_url: str) -> dict[str, Any]:
    """Return the values for `Celery.conf`; `broker_url` is the cluster's or the embedded server's."""
    return {
        "broker_url": broker_url,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # An error reply, of a full memory or a failover, must not end the worker.
        "broker_channel_error_retry": True,
        "broker_transport_options": {
            "visibility_timeout": settings.queue.visibility_timeout,
            # The defaults (10 s, every 10th time) would add 100 s to every redelivery.
            "unacked_restore_interval": 1,
            "unacked_restore_throttle": 1,
            "unacked_key": "bgpipe:unacked",
            "unacked_index_key": "bgpipe:unacked_index",
            "unacked_mutex_key": "bgpipe:unacked_mutex",
            # By default a worker that dies or loses Redis as it redelivers keeps the others from it for 300 s.
            "unacked_mutex_expire": 10,
            "health_check_interval": 25,
            "socket_keepalive": True,
        },
        # JSON only: a message must not be able to run code.
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "event_serializer": "json",
        "task_default_queue": settings.queue.name,
        # The job store keeps the outcomes; a result backend would nearly halve the throughput.
        "task_ignore_result": True,
        # A message is acknowledged only after its image is settled.
        "task_acks_late": True,
        "task_acks_on_failure_or_timeout": True,
        "task_reject_on_worker_lost": True,
        "task_publish_retry_policy": {"max_retries": None, "interval_max": 2.0},
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "worker_soft_shutdown_timeout": float(settings.worker.drain_timeout),
    }
