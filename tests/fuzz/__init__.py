"""Everything that reads what somebody wrote, given what nobody would write."""
