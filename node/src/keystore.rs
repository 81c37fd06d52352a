//! Server identity and trusted certificates; builds TLS configurations and swaps them while serving.
