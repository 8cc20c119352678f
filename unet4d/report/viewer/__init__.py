"""The 4D viewer of a report page: NiiVue and our scripts around it, and a study small enough to be put into the page."""
