"""The service under fire: hostile posts through real workers, among posts whose verdicts must not change."""
