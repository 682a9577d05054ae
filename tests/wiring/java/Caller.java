// Writes a request, in base64, with the classes that protoc has made of the protos.
import com.google.protobuf.ByteString;
import java.util.Base64;
import moderation.v1.Image;
import moderation.v1.ModeratePostRequest;
import moderation.v1.ModerationServiceProto;
import moderation.v1.Outcome;
import moderation.v1.Post;

public final class Caller {
    public static void main(String[] arguments) {
        Image image = Image.newBuilder().setData(ByteString.copyFrom(new byte[] {1, 2, 3})).build();
        Post post = Post.newBuilder().setId("1").setText("hello").addImages(image).build();
        boolean served = ModerationServiceProto.getDescriptor().findServiceByName("ModerationService")
            .findMethodByName("ModeratePost") != null;
        ModeratePostRequest request = ModeratePostRequest.newBuilder()
            .setPost(post)
            .setRequestId(Outcome.OUTCOME_REMOVE_VALUE + " " + served)
            .build();
        System.out.println(Base64.getEncoder().encodeToString(request.toByteArray()));
    }
}
