"""Pictures and pages that show a person what a model did."""
