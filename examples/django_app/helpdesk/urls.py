"""The pages of the help desk, and the gateway for other programs of the company."""

from django.contrib.auth.views import LoginView
from django.urls import include, path

urlpatterns = [
    path("login", LoginView.as_view(template_name="tickets/login.html"), name="login"),
    path("llm/", include("llmguard.integrations.django.urls")),
    path("", include("tickets.urls")),
]
