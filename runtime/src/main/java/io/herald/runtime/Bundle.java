package io.herald.runtime;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The items that go to Python together and the states of their keys, each read once; docs/runtime.md has the format. */
final class Bundle {

    /** A key and its states; a state that does not exist is null, {@code pending} also where it was not read. */
    static final class Slot {
        private final int index;
        final String key;
        byte[] profile;
        byte[] activity;
        Map<String, byte[]> pending;

        private Slot(int index, String key) {
            this.index = index;
            this.key = key;
        }
    }

    private final Map<String, Slot> byKey = new HashMap<>();
    private final List<Slot> slots = new ArrayList<>();
    private final Msgpack items = new Msgpack(32 * 1024);
    private int size;

    int size() {
        return size;
    }

    /** What the items take; the states of their keys are not counted. */
    int bytes() {
        return items.size();
    }

    /** The slot of a key, or null where no item of the bundle had that key. */
    Slot slot(String key) {
        return byKey.get(key);
    }

    Slot newSlot(String key) {
        Slot slot = new Slot(slots.size(), key);
        slots.add(slot);
        byKey.put(key, slot);
        return slot;
    }

    Slot slot(int index) {
        return slots.get(index);
    }

    void add(Slot slot, byte[] entry) {
        items.array(2).integer(slot.index).raw(entry);
        size++;
    }

    byte[] toByteArray() {
        Msgpack out = new Msgpack(items.size() + slots.size() * 1024).array(2).array(slots.size());
        for (Slot slot : slots) {
            out.array(4).text(slot.key).binary(slot.profile).binary(slot.activity);
            if (slot.pending == null) {
                out.binary(null);
            } else {
                out.map(slot.pending.size());
                slot.pending.forEach((id, item) -> out.text(id).binary(item));
            }
        }
        return out.array(size).raw(items).toByteArray();
    }
}
