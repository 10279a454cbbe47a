"""Everything that is asked of language models, with the SDK as it is: the guard is in the settings."""

import os

import openai

MODEL = os.environ.get("MODEL", "gpt-4o-mini")


def attribution(request):
    """Whose calls a request makes: the team's that its user is in."""
    if not request.user.is_authenticated:
        return {"feature": "helpdesk"}
    team = request.user.groups.first()
    return {"team": team and team.name, "feature": "helpdesk", "end_user": request.user.get_username()}


def summarise(ticket):
    """The ticket in one sentence."""
    prompt = f"Summarise in one sentence:\n\n{ticket.text}"
    reply = openai.OpenAI().chat.completions.create(model=MODEL, messages=_said(prompt), max_tokens=100)
    return reply.choices[0].message.content


def draft(ticket):
    """An answer to the ticket, piece by piece."""
    with openai.OpenAI().chat.completions.create(**_answer(ticket)) as events:
        for event in events:
            yield from (choice.delta.content or "" for choice in event.choices)


async def adraft(ticket):
    """The same in an event loop."""
    async with openai.AsyncOpenAI() as client, await client.chat.completions.create(**_answer(ticket)) as events:
        async for event in events:
            for choice in event.choices:
                yield choice.delta.content or ""


def _answer(ticket):
    prompt = f"Answer this customer:\n\n{ticket.text}"
    return {"model": MODEL, "messages": _said(prompt), "max_tokens": 500, "stream": True}


def _said(prompt):
    return [{"role": "user", "content": prompt}]
