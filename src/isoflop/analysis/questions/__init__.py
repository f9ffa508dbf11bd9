"""The paper's questions as tests: pure functions of scores, each with a result record."""
