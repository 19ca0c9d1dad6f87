package io.herald.runtime;

/** A record that cannot be used: a stable code, the JSON path ({@code $} is the root) and a short text for people. */
final class Refused extends Exception {
    final String reason;
    final String path;
    final String detail;

    Refused(String reason, String path, String detail) {
        super(path + ": " + detail, null, false, false);    // thrown for bad input at any rate: no stack trace
        this.reason = reason;
        this.path = path;
        this.detail = detail;
    }
}
