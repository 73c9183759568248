"""The Celery application that takes jobs from Redis and runs each in a fresh jail.

It imports nothing: `celery -A worker` finds the application in `worker.celery`, which reads the
environment.
"""
