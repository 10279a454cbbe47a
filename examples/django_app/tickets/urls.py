"""The pages."""

from django.urls import path

from tickets import views

urlpatterns = [
    path("", views.tickets, name="tickets"),
    path("tickets/<int:number>/summary", views.summarise, name="summarise"),
    path("tickets/<int:number>/draft", views.draft, name="draft"),
    path("budget", views.budget, name="budget"),
]
