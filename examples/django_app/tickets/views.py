"""Pages: the team's tickets, a summary, a streamed draft of an answer, and what is left of the team's budget."""

from django.contrib.auth.decorators import login_required
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST

from llmguard import get_guard
from tickets import llm
from tickets.models import Ticket


@login_required
def tickets(request):
    """The tickets of the user's teams."""
    return render(request, "tickets/tickets.html", {"tickets": Ticket.objects.filter(team__in=_teams(request))})


@login_required
@require_POST
def summarise(request, number):
    """Have a model write the summary. A refusal is answered by the guard's middleware, and nothing is saved."""
    ticket = get_object_or_404(Ticket, pk=number, team__in=_teams(request))
    ticket.summary = llm.summarise(ticket)
    ticket.save()
    return redirect("tickets")


@login_required
def draft(request, number):
    """An answer while it is written. Django streams a generator under WSGI, and an asynchronous one under ASGI."""
    ticket = get_object_or_404(Ticket, pk=number, team__in=_teams(request))
    pieces = llm.adraft(ticket) if hasattr(request, "scope") else llm.draft(ticket)
    headers = {"Content-Encoding": "identity"}  # else GZipMiddleware collects it
    return StreamingHttpResponse(pieces, content_type="text/plain; charset=utf-8", headers=headers)


@login_required
def budget(request):
    """What is left."""
    left = get_guard().remaining(**{name: who for name, who in llm.attribution(request).items() if who})
    rows = [
        {"rule": each.rule, "spent": each.spent / 1e9, "limit": each.limit / 1e9, "left": each.remaining / 1e9}
        for each in left
        if each.unit == "usd"
    ]
    return render(request, "tickets/budget.html", {"rows": rows})


def _teams(request):
    return request.user.groups.all()
