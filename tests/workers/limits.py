"""What the policies of the tasks under test allow; the tests hold the provider's count against these.

A call costs $0.0103, and no more than $0.0106 is reserved for it.
"""

PAID = 3
"""Paid attempts of one task."""
CALLS = 8
"""Calls of one execution, and alike prompts in it."""
DEPTH = 6
"""Tasks below the first one of a tree."""
TREE = 10
"""Calls, and tasks, of one tree."""
LOST = 1
"""Executions that may be lost with their worker before the task is given up."""
FAILURES = 5
"""Failures of one task name after which its breaker opens."""
STORM, RETRY_BUDGET, RETRIES = 6, (0.5, 2), 5
"""Distinct tasks that each retry; the ratio and the floor that allow retries of their name; how many that makes."""

TASK_BUDGET, TASK_BUDGET_CALLS = "$0.075", 7
TREE_BUDGET, TREE_BUDGET_CALLS = "$0.095", 9
FEATURE_BUDGET, FEATURE_BUDGET_CALLS = "$0.095", 9

BATCH = 2_000
"""Calls of a healthy batch."""
CHAIN = 26
"""Steps of a healthy chain, one more than a tree may be deep."""
SAMPLES = 20
"""Answers to one prompt that are meant."""
PARALLEL = 20
"""Ordinary calls at once."""
VAIN = 6
"""Times that a task pays before it succeeds."""
