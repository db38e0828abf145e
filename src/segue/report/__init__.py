"""Tables and pages that show what a run has learnt."""
