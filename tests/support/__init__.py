"""What the tests share: the four launchers, building programs, processes, reports."""
