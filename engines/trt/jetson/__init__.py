"""Plans for Jetson boards, which are built on the board: what is copied there, and the script that builds."""
