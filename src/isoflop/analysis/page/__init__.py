"""The report: one page that holds everything, and its parts."""
