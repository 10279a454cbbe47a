"""Tickets that people of a team answer."""

from django.contrib.auth.models import Group
from django.db import models


class Ticket(models.Model):
    """A question of a customer. ``summary`` is written by a model."""

    team = models.ForeignKey(Group, on_delete=models.CASCADE)
    subject = models.CharField(max_length=200)
    text = models.TextField()
    summary = models.TextField(blank=True)

    def __str__(self):
        return self.subject
