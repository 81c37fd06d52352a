//! What a filter, an update, a sort order and a projection mean: MongoDB's documents over BSON, in memory.
