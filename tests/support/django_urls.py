"""The gateway below a path with a space and an accent, and views that ask a provider themselves."""

from __future__ import annotations

from django.urls import include, path

from tests.support import django_views as views

urlpatterns = [
    path("", views.home),
    path("deep/b é/", include("llmguard.integrations.django.urls")),
    path("llm/", include("llmguard.integrations.django.urls")),
    path("ask", views.ask),
    path("aask", views.aask),
    path("stream", views.stream),
    path("astream", views.astream),
]
