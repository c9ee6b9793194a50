"""The hospital's say: its policy, its approvals, and what a run would do here and cost."""
