"""Doors: how web applications, SDK clients and task workers meet the guard."""
