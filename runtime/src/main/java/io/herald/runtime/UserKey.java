package io.herald.runtime;

import java.util.regex.Pattern;

/** The key of everything that belongs to one user, {@code tenant/user}, and what each half may be. */
final class UserKey {
    static final String DEFAULT_TENANT = "default";
    private static final Pattern TENANT = Pattern.compile("[A-Za-z0-9_.-]{1,64}");
    private static final int LONGEST_ID = 256;

    private UserKey() {}

    static boolean isTenant(String text) {
        return text.equals(DEFAULT_TENANT) || TENANT.matcher(text).matches();
    }

    /** What is wrong with an id (of a user, of a campaign), or null. */
    static String problemOfId(String id) {
        int characters = 0;
        for (int i = 0, character; i < id.length(); i += Character.charCount(character)) {
            character = id.codePointAt(i);
            if (character >= Character.MIN_SURROGATE && character <= Character.MAX_SURROGATE) {
                return "an id with half a surrogate pair";
            }
            characters++;
        }
        if (characters == 0) {
            return "an empty id";
        }
        return characters > LONGEST_ID ? "an id of " + characters + " characters; " + LONGEST_ID + " at most" : null;
    }

    /** What is wrong with a whole key, or null. */
    static String problemOf(String key) {
        int slash = key.indexOf('/');
        if (slash < 0 || !isTenant(key.substring(0, slash))) {
            return "a key is `tenant/user`, the tenant of 1 to 64 letters, digits, `_`, `.` and `-`";
        }
        return problemOfId(key.substring(slash + 1));
    }
}
