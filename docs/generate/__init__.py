"""The documentation site: pages made from the code, the pages of docs/, one strict build, and a check of every link."""
