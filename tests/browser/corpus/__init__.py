"""The files that the browser is asked to show: made here, a module for each subject, each with `cases()`."""
