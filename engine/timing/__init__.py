"""Virtual time: what hospitals' work, links and absences take, by a clock that no machine drives. Nothing is imported here."""
